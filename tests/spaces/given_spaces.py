"""Search spaces on the digits, and what is wrong with them."""

import pytest

from spaces import ConfigError, SearchSpace

FIXED = {"data": {"name": "digits"}, "evaluation": {"radius": 0.05}}


def space_of(**parts):
    return SearchSpace(FIXED | parts)


def problems(**parts):
    with pytest.raises(ConfigError) as caught:
        space_of(**parts)
    return list(caught.value.problems)
