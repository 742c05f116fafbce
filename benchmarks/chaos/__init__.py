"""What dies, hangs or is overloaded while a run goes on, and what the run makes of it."""

import os

# Ray reads them when it is imported.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
