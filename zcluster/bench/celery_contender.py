"""Celery as a measure: its Redis broker and its Redis result backend, in front of a server that syncs every write.

Rules kept here:
- two workers, each a pool of two processes (prefork): a worker waits for the broker's disk with each task that it takes and
  acknowledges, so one alone does half as many; ``acks_late``, since a task that is acknowledged before it ran is lost with its
  worker; the prefetch as it comes; no gossip, mingle and heartbeat, which only cost;
- the client: one thread that keeps ``in_flight`` tasks under way: ``apply_async`` returns when the broker has the task, and
  ``AsyncResult.then`` tells of the value, read from the one connection that Celery subscribes with. Threads with ``get`` do the
  same work, and wait for each other besides;
- JSON, the serializer as it comes.

``python -m zcluster.bench.celery_contender worker NAME|client`` speaks the lines of :mod:`zcluster.bench.child`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from functools import partial
from typing import Any

from zcluster.bench.child import read_line
from zcluster.bench.queueloops import Window, serve_blocking
from zcluster.bench.queuerounds import QueueLine
from zcluster.bench.redis_contender import RedisConfig, redis_server_path
from zcluster.bench.rounds import RoundSpec
from zcluster.errors import TimedOut, UsageError

TASK = "bench.echo"
WORKERS = ("worker-1", "worker-2")
CONCURRENCY = 2
FIRST_S = 30.0
PING_S = 1.0
SILENCE_S = 30.0
"""How long no value may come while tasks are under way."""
DRAIN_S = 0.1


def check_celery() -> None:
    """Raises UsageError that says what to install when something is missing."""
    redis_server_path()
    if importlib.util.find_spec("celery") is None:
        raise UsageError("celery is not installed", hint="pip install 'zcluster[bench]'")


def echo(value: str) -> str:
    """The task."""
    return value


def make_app(socket: str) -> tuple[Any, Any]:
    """The application and its one task."""
    from celery import Celery  # not a dependency of zcluster: only this contender's processes need it

    url = f"redis+socket://{socket}"
    app = Celery("bench", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True, result_expires=3600)
    return app, app.task(name=TASK)(echo)


def _work(config: RedisConfig) -> None:
    os.dup2(2, 1)  # its banner is no line for the parent
    app, _task = make_app(config.socket)
    plain = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    size = f"--concurrency={CONCURRENCY}"
    app.worker_main(["worker", f"--hostname={sys.argv[2]}", "--pool=prefork", size, "--loglevel=WARNING", *plain])


class TaskLoad:
    """Keeps tasks under way.

    Args:
        app: the application.
        task: its task.
        value: what each task carries.
    """

    def __init__(self, app: Any, task: Any, value: str) -> None:
        self._consumer = app.backend.result_consumer
        self._task = task
        self._value = value
        self._under_way = 0

    def run(self, spec: RoundSpec) -> QueueLine:
        """One round."""
        window = Window(spec)
        heard_s = time.monotonic()
        while window.goes_on() or self._under_way:
            while not window.over and self._under_way < spec.in_flight:
                self._submit(window)
            before = self._under_way
            self._consumer.drain_events(timeout=DRAIN_S)
            now_s = time.monotonic()
            if self._under_way < before:
                heard_s = now_s
            elif now_s - heard_s > SILENCE_S:
                raise TimedOut(f"Celery has brought no value for {SILENCE_S:g} s")
        return window.line()

    def _submit(self, window: Window) -> None:
        began_s = time.monotonic()
        result = self._task.apply_async((self._value,))
        window.accept.record(time.monotonic() - began_s)
        self._under_way += 1
        result.then(partial(self._ended, window, began_s))

    def _ended(self, window: Window, began_s: float, result: Any) -> None:
        self._under_way -= 1
        if not result.successful():
            window.failed(str(result.state).lower())
        elif result.result != self._value:
            window.failed("wrong_answer")
        else:
            window.done.record(time.monotonic() - began_s)


def _load(config: RedisConfig) -> None:
    app, task = make_app(config.socket)
    value = "x" * config.size_bytes
    began_s = time.monotonic()
    while len(app.control.ping(timeout=PING_S)) < len(WORKERS):
        if time.monotonic() - began_s > FIRST_S:
            raise TimedOut(f"the workers of Celery are not ready after {FIRST_S:g} s")
    task.apply_async((value,)).get(timeout=FIRST_S)
    serve_blocking(TaskLoad(app, task, value).run)


def main() -> None:
    """``python -m zcluster.bench.celery_contender worker NAME|client``."""
    config = read_line(RedisConfig)
    if config is not None:
        {"worker": _work, "client": _load}[sys.argv[1]](config)


if __name__ == "__main__":
    main()
