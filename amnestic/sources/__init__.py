"""What an audit is given: prompt lists, reference images, and the works they show."""
