import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import wanda_literal

from amnestic.core.seeds import generator
from amnestic.measures.subspace import squared_norms, subspace_mask, top_per_row


def draw(*shape, name="x"):
    return torch.randn(*shape, generator=generator(0, name))


def test_norms_equal_the_literal_ones():
    rows = draw(3, 2, 5, 7)
    rows[1, 0, 2] = 0
    ours = squared_norms(rows).sqrt()
    theirs = wanda_literal.column_norms([part.numpy() for part in rows])
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5)


def test_norms_of_parts_add_up():
    rows = draw(4, 6, 9)
    torch.testing.assert_close(squared_norms(rows[:1]) + squared_norms(rows[1:]), squared_norms(rows))


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 3), st.floats(0.05, 1))
def test_masks_equal_the_literal_ones(n_outputs, n_inputs, seed, r):
    weight = draw(n_outputs, n_inputs, name=f"w{seed}")
    target, contrast = (draw(3, n_inputs, name=f"{part}{seed}").abs() for part in ("t", "c"))
    steps = [
        wanda_literal.step_mask(weight.numpy(), a.numpy(), b.numpy(), r, compare="norms")
        for a, b in zip(target, contrast, strict=True)
        if int(r * n_inputs)
    ]
    wanted = np.any(steps, axis=0) if steps else np.zeros(weight.shape, bool)
    np.testing.assert_array_equal(subspace_mask(weight, target, contrast, r=r).numpy(), wanted)


def test_of_equal_scores_the_lower_columns_win():
    scores = torch.tensor([[2.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    chosen = top_per_row(scores, 2)
    assert chosen.tolist() == [[True, False, True, False], [True, True, False, False]]
    assert not top_per_row(scores, 0).any()
    assert top_per_row(scores, 4).all()


def test_nothing_is_chosen_where_the_contrast_is_as_large():
    norms = torch.ones(2, 5)
    assert not subspace_mask(draw(3, 5), norms, norms, r=1.0).any()


def test_norms_of_unequal_steps_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        subspace_mask(torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3), r=0.5)
