"""A few of the damaged requests of `serving_fuzz`; `scripts/soak.sh` sends ten thousand."""

from __future__ import annotations

from tests.served import serving
from tests.serving_fuzz import run


def test_no_request_is_the_server_s_mistake(elastic_dir):
    with serving(elastic_dir) as url:
        statuses, wrong = run(url, 160)
    assert wrong == []
    assert min(statuses[200], statuses[400]) > 30
