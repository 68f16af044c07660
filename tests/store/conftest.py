"""The suite in contract.py is imported by one test module per engine."""

import pytest

pytest.register_assert_rewrite("contract", "given")
