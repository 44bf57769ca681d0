"""Messages between the engine and its ranks."""

import numpy as np
import pytest

from fastserve.executor.messages import RankTimed, decode_from_rank, encode


def test_a_number_of_numpys_is_a_number():
    message = RankTimed(seconds=np.float64(0.8))
    assert decode_from_rank(encode(message)) == RankTimed(seconds=0.8)


def test_what_no_message_holds_is_refused():
    with pytest.raises(NotImplementedError, match="no message holds a complex"):
        encode(RankTimed(seconds=1j))
