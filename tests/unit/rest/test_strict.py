"""What a request's body must be, apart from the server that reads it."""

import pytest
from pydantic import ValidationError

from libs.rest.strict import Body


def test_a_field_that_nobody_knows_is_refused() -> None:
    class Known(Body):
        name: str

    assert Known(name="vm").name == "vm"
    with pytest.raises(ValidationError, match="nmae"):
        Known.model_validate({"name": "vm", "nmae": "x"})
