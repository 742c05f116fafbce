"""Any agent program as an environment: what it asks of its model is the observation, what it is
answered is the action. Never imports Ray."""
