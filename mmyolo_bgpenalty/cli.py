"""How the command-line tools end: 0, or 2 with one line that says what was wrong with their input."""

import os
import sys
from typing import Callable, Optional


def run(main: Callable[[], Optional[int]]) -> int:
    """The exit code of ``main``. ValueError, OSError and ImportError become one line on stderr and 2."""
    try:
        return main() or 0
    except (ValueError, OSError, ImportError) as error:
        line = ' '.join(str(error).split())
        print(f'{os.path.basename(sys.argv[0])}: {line}', file=sys.stderr)
        return 2
