"""The website example, as a module with a stand-in for the Deployment controller, and as the command that it is."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from controllers import Context, Manager, Request, is_controlled_by
from controllers.apps.types import Deployment

FILE = Path(__file__).parents[2] / "examples" / "website.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("website_example", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FILE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)


async def test_a_website_becomes_a_deployment_and_its_status_follows(tmp_path: Path) -> None:
    example = load()
    manager: Manager = example.manager
    website: type[Any] = example.Website
    manager.store = str(tmp_path)

    @manager.reconciler(Deployment)
    async def run_pods(ctx: Context, request: Request) -> None:
        deployment = ctx.get(Deployment, request)
        if deployment is not None:
            deployment.status.ready_replicas = deployment.spec.replicas
            await ctx.update_status(deployment)

    async with manager:
        await example.create_sample()
        await example.create_sample()
        (site,) = await manager.client.list(website)
        async with asyncio.timeout(20):
            await example.ready.wait()
            example.ready.clear()
            deployment = await manager.client.get(Deployment, site.name, site.namespace)
            assert deployment.spec.template.spec.containers[0].image == "nginx"
            assert is_controlled_by(deployment, site)

            await manager.client.patch(website, site.name, {"spec": {"replicas": 5, "image": "caddy"}}, site.namespace)
            cache = manager.informer(website).cache
            while not any(b'"readyReplicas":5' in stored.data for stored in cache.list()):
                await asyncio.sleep(0.002)
        site = await manager.client.get(website, site.name, site.namespace)
        assert site.status.url == "http://hello.default.example.com"
        deployment = await manager.client.get(Deployment, site.name, site.namespace)
        assert (deployment.spec.replicas, deployment.spec.template.spec.containers[0].image) == (5, "caddy")
        assert manager.statistics().controllers["website"].outcomes["error"] == 0


def test_once_without_anybody_who_runs_deployments_says_so(tmp_path: Path) -> None:
    done = run("--once", "--timeout", "0.5", "--no-workloads", "--store", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: no website was ready within 0.5 s"]


def test_once_ends_when_the_site_is_ready(tmp_path: Path) -> None:
    done = run("--once", "--store", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "website_ready" in done.stdout
