"""Plays a schedule against a machine model: when each task runs, and what it waits for.

Every worker has a loader, which streams the weights of its list through the ring ahead of every
event, compute warps, and a publisher (worker.py). They share the memory (memory.py); all else is a
sum of constants of the machine (tasks.py) and waits for events (events.py), so the only clock is
the memory's: between two of its completions a worker is played (player.py) as far as what is known
lets it run (a task's times are numbers in the future). Steps follow each other as in one launch;
the last one is reported (simulation.py).
"""

from mpkir.analysis.simulator.player import play, simulate
from mpkir.analysis.simulator.simulation import Cause, Simulation

__all__ = ["Cause", "Simulation", "play", "simulate"]
