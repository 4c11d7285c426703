"""`pconv`: batch restoration of damaged pictures with partial convolutions.

For programs: `restore_image` fills one array, a `Restorer` many, and tells what it did. None of it is
loaded before it is asked for.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Restored", "Restorer", "__version__", "restore_image"]

if TYPE_CHECKING:
    from pconv_cli.api import Restored, Restorer, restore_image
else:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from pconv_cli import api

        return getattr(api, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
