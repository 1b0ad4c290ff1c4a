"""Everything that can go wrong for a user, as one small tree.

```
AmnesticError               exit code
├── InputError              2   wrong path, option, file or prompt list
│   └── UnsupportedModel    2   a model family or weight format that is refused
├── StoreError              2   run folder made with other settings, or not finished
└── NotFinite               5   NaN or infinity in weights or activations
```

Each message says what was expected, what came, and what to do.
"""


class AmnesticError(Exception):
    """Base of all errors that are shown as one sentence."""

    exit_code = 5


class InputError(AmnesticError):
    """What the user gave cannot be used."""

    exit_code = 2


class UnsupportedModel(InputError):
    """The model's family or weight format is not supported."""


class StoreError(AmnesticError):
    """A run folder does not fit what was asked of it."""

    exit_code = 2


class NotFinite(AmnesticError):
    """Weights or activations hold NaN or infinity."""
