"""One server of the comparison against a fake one: what it prints and keeps."""

import pytest

from bench.serving.compare import Server
from tests.unit.bench.fake_openai import REFUSE, fake_openai
from tests.unit.bench.test_load import workload


def test_a_run_is_printed_with_its_failures_and_kept_with_its_raw_times(capsys):
    with fake_openai() as fake:
        server = Server("ours", fake.url)
        summary = server.run("light", workload([1, 2, REFUSE], tokens=3))
    out = capsys.readouterr().out
    assert "ours" in out and "light" in out and "failed 1 {'HTTP 429': 1}" in out
    assert (summary["completed"], summary["failed"]) == (2, 1)
    assert [tokens for _, _, tokens in server.samples["light"]] == [3, 3, 0]


def test_a_server_that_completes_nothing_ends_the_comparison():
    with fake_openai() as fake, pytest.raises(SystemExit, match=r"ours, light: no request completed: .*too many"):
        Server("ours", fake.url).run("light", workload([REFUSE]))
