"""Test an operator without a cluster: simulated lives on virtual time, with faults and crashes, that replay exactly.

A test tells what is simulated, and lives some lives:

    class Websites(Scenario):
        kind, children = Website, (Deployment,)

        def manager(self, process: Process) -> Manager:
            manager = Manager(**process.options)
            manager.add_controller(Website, reconcile, owns=[Deployment])
            return manager

        def spec(self, rng: random.Random) -> dict[str, Any]:
            return {"image": rng.choice(["a", "b"]), "replicas": rng.randint(0, 3)}


    @pytest.mark.parametrize("seed", range(20))
    def test_websites_whatever_happens(seed: int) -> None:
        simulate(Websites, seed)
"""

from controllers.simulation.client import NO_FAULTS, Faults, SimulatedClient
from controllers.simulation.life import Statistics, simulate
from controllers.simulation.scenario import Process, Revision, Scenario, comparable
from controllers.simulation.trace import SimulationFailed, Trace
from controllers.simulation.user import OPERATIONS, Operation, User
from controllers.simulation.virtual_time import VirtualTimeLoop

__all__ = [
    "NO_FAULTS",
    "OPERATIONS",
    "Faults",
    "Operation",
    "Process",
    "Revision",
    "Scenario",
    "SimulatedClient",
    "SimulationFailed",
    "Statistics",
    "Trace",
    "User",
    "VirtualTimeLoop",
    "comparable",
    "simulate",
]
