"""The small run of the tests of `train`."""

from tests.train.conftest import settings as settings
from tests.train.conftest import text as text
