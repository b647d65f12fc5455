"""What has to hold of the machines after every event, and what is left when everything is quiet: nothing.

Rule kept here: a check reads, and changes nothing; what it finds ends the run with the seed.
"""

from __future__ import annotations

from zcluster.core.peers import Fan, Request
from zcluster.sim.functions import LIMITS
from zcluster.sim.ledger import TICK_S
from zcluster.sim.processes import MASTER_SLOTS, ClientHost, MasterHost, WorkerHost


def check_master(host: MasterHost, slots: dict[str, int]) -> None:
    """The master's books agree with each other, and no bound is passed."""
    machine, world = host.machine, host.world
    dispatch = machine.dispatch
    running = waiting = waiting_bytes = 0
    # What ran on a lost node waits again: that may be more than is admitted, by as much as runs.
    moved = sum(slots.values())
    for peer in machine.roster.peers.values():
        mine = 0
        for entry in peer.requests.values():
            for request in entry.left if isinstance(entry, Fan) else (entry,):
                if request.queue is None:
                    running += 1
                    _check_running(host, request)
                else:
                    mine += 1
                    waiting_bytes += len(request.body)
        if mine != peer.waiting:
            world.fail(f"{peer.waiting} requests of session {peer.no} are said to wait, {mine} do")
        if mine > dispatch.limits.per_client + moved:
            world.fail(f"{mine} requests of session {peer.no} wait")
        waiting += mine
    if (running, waiting, waiting_bytes) != (dispatch.running, dispatch.waiting, dispatch.waiting_bytes):
        world.fail(
            f"{dispatch.running} running, {dispatch.waiting} waiting, {dispatch.waiting_bytes} bytes are said to be;"
            f" {running}, {waiting}, {waiting_bytes} are"
        )
    limits = dispatch.limits
    if waiting > limits.total + moved or waiting_bytes > limits.total_bytes + moved * LIMITS.inline_bytes:
        world.fail(f"{waiting} requests and {waiting_bytes} bytes wait")
    if not 0 <= dispatch.gate.used_bytes <= max(dispatch.gate.limit_bytes, LIMITS.body_bytes):
        world.fail(f"{dispatch.gate.used_bytes} bytes of large bodies are allowed to be under way")
    for node in machine.roster.nodes.values():
        most = MASTER_SLOTS if node.name == machine.name else slots.get(node.name, 0)
        if len(node.running) > most:
            world.fail(f"{node.name} has {len(node.running)} requests and {most} slots")
        if sum(node.by_caller.values()) != len(node.running) or 0 in node.by_caller.values():
            world.fail(f"{node.name} runs {len(node.running)} requests, its callers have {node.by_caller}")
        quick = sum(request.quick for request in node.running.values())
        if sum(node.quick.values()) != quick or 0 in node.quick.values():
            world.fail(f"{node.name} runs {quick} quick requests, its callers have {node.quick}")
        if node.by_caller and max(node.by_caller.values()) > max(1, most * 7 // 8):
            world.fail(f"one caller has {max(node.by_caller.values())} of {most} slots of {node.name}")


def check_client(host: ClientHost) -> None:
    """No call is open past its deadline."""
    if not host.reachable:
        return
    now = host.clock()
    for call in host.calls.open_calls.values():
        if now > call.deadline_s + TICK_S:
            host.world.fail(f"{call.sink.key} is open {now - call.deadline_s:.3f} s after its deadline")


def check_worker(host: WorkerHost) -> None:
    """A worker runs no more than its slots."""
    if host.node.end.in_flight > host.node.slots:
        host.world.fail(f"{host.name} has {host.node.end.in_flight} requests in {host.node.slots} slots")


def check_quiet(master: MasterHost, workers: list[WorkerHost], clients: list[ClientHost]) -> None:
    """Everything has ended: nobody holds anything any more."""
    machine, world = master.machine, master.world
    dispatch = machine.dispatch
    left = {
        "running": dispatch.running, "waiting": dispatch.waiting, "waiting_bytes": dispatch.waiting_bytes,
        "gate": dispatch.gate.used_bytes, "deadlines": dispatch.next_deadline() or 0,
        "requests": sum(len(peer.requests) for peer in machine.roster.peers.values()),
        "outbox_bytes": sum(peer.lanes.waiting_bytes for peer in machine.roster.peers.values()),
        "callers": sum(len(node.by_caller) + len(node.quick) for node in machine.roster.nodes.values()),
        "in_flight": sum(worker.node.end.in_flight for worker in workers) + master.node.end.in_flight,
        "worker_deadlines": sum(worker.node.end.next_deadline() is not None for worker in workers),
        "open_calls": sum(len(client.calls.open_calls) for client in clients),
        "call_deadlines": sum(client.calls.next_deadline() is not None for client in clients),
    }  # fmt: skip
    if any(left.values()):
        world.fail(f"all is quiet, and there is still: { {name: count for name, count in left.items() if count} }")
    for worker in workers:
        if worker.link.state != "up" or machine.roster.nodes[worker.name].state != "ready":
            world.fail(f"all is quiet, and {worker.name} is not back: {machine.roster.nodes[worker.name].state}")


def _check_running(host: MasterHost, request: Request) -> None:
    node = request.node
    if node is None or node.running.get(request.leg) is not request:
        host.world.fail(f"request {request.caller.no}.{request.id} neither waits nor runs")
