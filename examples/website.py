"""A kind of your own and its reconciler in one file: a Website becomes a Deployment, and its status says how it does.

    python examples/website.py             # until Ctrl-C; meanwhile, in another terminal: listwatch get websites
    python examples/website.py --once      # until the sample site is ready
    python examples/website.py --store etcd://127.0.0.1:2379 --no-workloads      # on a cluster that runs Deployments

What it teaches:
- A kind is a class. Attributes in `snake_case` are `camelCase` in the store, and a value that does not fit is refused.
- A reconciler is told which object to look at, never what happened to it. It makes the world as the object wants it,
  from whatever state it finds, so it may run at any time and any number of times.
- `owns=[Deployment]`: a change of the Deployment runs the Website that owns it. Nothing polls.
- Reads come from a cache, writes go to the store. A write that changes nothing is not made, so this cannot loop.
"""

from __future__ import annotations

import argparse
import asyncio

from controllers import Context, ControllerError, Manager, Request
from controllers.apps.types import Deployment
from controllers.builtin import add_workloads
from informer import Resource


class Website(Resource, group="example.com", version="v1"):
    class Spec:
        image: str
        replicas: int = 1

    class Status:
        ready_replicas: int = 0
        url: str = ""


manager = Manager()
ready = asyncio.Event()


def deployment_for(site: Website) -> Deployment:
    labels = {"website": site.name}
    container = {"name": "web", "image": site.spec.image, "ports": [{"containerPort": 80}]}
    return Deployment(
        name=site.name,
        namespace=site.namespace,
        spec={
            "replicas": site.spec.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    )


@manager.reconciler(Website, owns=[Deployment])
async def reconcile(ctx: Context, request: Request) -> None:
    site = ctx.get(Website, request)
    if site is None:
        return  # deleted, and what it owned goes with it
    deployment = (await ctx.apply(deployment_for(site), owner=site)).object
    site.status.ready_replicas = deployment.status.ready_replicas
    site.status.url = f"http://{site.name}.{site.namespace}.example.com"
    await ctx.update_status(site)
    if site.status.ready_replicas >= site.spec.replicas:
        ctx.log.info("website_ready", url=site.status.url, replicas=site.spec.replicas)
        ready.set()


async def create_sample() -> None:
    if not await manager.client.list(Website):
        await manager.client.create(Website(name="hello", namespace="default", spec={"image": "nginx", "replicas": 2}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Websites become Deployments.")
    parser.add_argument("--store", help="etcd://HOST:PORT,... or a data directory; default: the local store")
    parser.add_argument("--once", action="store_true", help="stop when a website is ready")
    parser.add_argument("--timeout", type=float, default=30, help="seconds that --once waits (default: 30)")
    parser.add_argument("--workloads", action=argparse.BooleanOptionalAction, default=True,
                        help="run the built-in controllers and three simulated nodes in this process too")  # fmt: skip
    options = parser.parse_args()

    async def stop_when_ready() -> None:
        try:
            async with asyncio.timeout(options.timeout):
                await ready.wait()
        except TimeoutError:
            raise ControllerError(f"no website was ready within {options.timeout:g} s") from None
        manager.stop()

    manager.store = options.store
    manager.add_runnable(create_sample)
    if options.workloads:
        add_workloads(manager, nodes=3)
    if options.once:
        manager.add_runnable(stop_when_ready)
    manager.run()


if __name__ == "__main__":
    main()
