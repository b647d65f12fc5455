"""The settings ``queue.*`` as the machine of the queue takes them."""

from __future__ import annotations

from dataclasses import replace

from zcluster.brokers.queuesettings import defaults_of
from zcluster.config import Settings
from zcluster.core.queue.admission import Defaults


def test_what_holds_for_jobs_is_what_the_settings_say() -> None:
    assert defaults_of(Settings()) == Defaults(), "the machine's own defaults are those of the settings"
    settings = Settings()
    changed = replace(settings, queue=replace(settings.queue, max_retention_s=5.0, retention_s=4.0))
    assert (defaults_of(changed).max_retention_s, defaults_of(changed).retention_s) == (5.0, 4.0)
