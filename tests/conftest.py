"""What every test run shares."""

import gc


def pytest_sessionfinish():
    # Commands freeze what they import (common.startup); libraries that look for leaks at exit,
    # where a test imported one, would report all of it.
    gc.unfreeze()
