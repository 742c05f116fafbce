"""Running programs that a model wrote: contained, limited, and at little more than the program's
own cost.
"""

from envs.sandbox.isolation import Isolation, probe
from envs.sandbox.limits import Completed, Ending, Limits
from envs.sandbox.sandbox import Sandbox

__all__ = ["Completed", "Ending", "Isolation", "Limits", "Sandbox", "probe"]
