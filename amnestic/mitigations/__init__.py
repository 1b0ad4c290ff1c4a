"""What takes memorized images out of a model: methods that turn a finding into an edit."""
