"""The admin address: /healthz, /readyz, /metrics, /status. Read-only. IO."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from proxy.config.model import Address

if TYPE_CHECKING:
    from proxy.runtime.supervisor import Supervisor


_COUNTS = {
    "requests": "Questions to the key agent",
    "opened": "Ring keys that the key agent opened",
    "denied": "Ring keys that the key agent's own look at the policy refused",
    "refused": "Connections to the key agent from processes that have no business with it",
    "dropped": "Connections that the key agent ended because of what they sent",
}


class _AgentMetrics(Collector):
    """What the key agent last said. Its counts begin anew with each agent, as counters may."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._of = supervisor

    def collect(self) -> Iterator[Metric]:
        agent = self._of.agent
        yield GaugeMetricFamily("sealgate_agent_up", "1 while the key agent serves", agent.ready)
        yield CounterMetricFamily(
            "sealgate_agent_restarts", "Agents that died and were started again", agent.restarts
        )
        yield GaugeMetricFamily(
            "sealgate_agent_connections",
            "Of workers and commands",
            agent.said.get("connections", 0),
        )
        for name, text in _COUNTS.items():
            count = agent.said.get("counts", {}).get(name, 0)
            yield CounterMetricFamily(f"sealgate_agent_{name}", text, count)


class Admin:
    """HTTP server of the supervisor; `address` is (host, port) once started."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self._of = supervisor
        self._runner: web.AppRunner | None = None
        # the supervisor's own; what workers count is in files that the multiprocess mode adds up
        self._own = CollectorRegistry()
        self._reload = Gauge(
            "sealgate_config_last_reload_successful",
            "1 unless the last reload failed",
            registry=self._own,
        )
        self._ready = Gauge("sealgate_workers_ready", "Workers that serve", registry=self._own)
        self._own.register(_AgentMetrics(supervisor))
        self.address: tuple[str, int] = ("", 0)

    async def start(self, listen: Address) -> None:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status", self._status)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, listen.host, listen.port)
        await site.start()
        name = self._runner.addresses[0]
        self.address = (name[0], name[1])

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready = self._of.ready
        body = {
            "ready": ready,
            "workers": [w.said for w in self._of.workers],
            "agent": self._of.agent.shown(),
        }
        return web.json_response(body, status=200 if ready else 503)

    async def _status(self, _request: web.Request) -> web.Response:
        workers = [{"pid": w.process.pid, "leaving": w.leaving, **w.said} for w in self._of.workers]
        return web.json_response(
            {"workers": workers, "agent": self._of.agent.shown(), **self._of.addresses()}
        )

    async def _metrics(self, _request: web.Request) -> web.Response:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, self._of.metrics_dir)
        self._reload.set(self._of.last_reload_successful)
        self._ready.set(sum(w.ready for w in self._of.workers))
        text = generate_latest(registry) + generate_latest(self._own)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
