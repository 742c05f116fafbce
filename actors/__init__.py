"""Ray actors and what they are made of: env runners, model servers and back ends, the collector,
the rollout driver.
"""
