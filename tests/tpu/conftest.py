from tests.train.conftest import squares  # noqa: F401
