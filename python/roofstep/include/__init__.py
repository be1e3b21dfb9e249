"""The directory of the C header, roofstep/roofstep.h."""

from pathlib import Path


def get_include() -> str:
    """The directory that a C or C++ compiler needs to find ``#include <roofstep/roofstep.h>``.

    Example:
        >>> import roofstep
        >>> from pathlib import Path
        >>> Path(roofstep.get_include(), "roofstep", "roofstep.h").exists()
        True
    """
    return str(Path(__file__).parent)
