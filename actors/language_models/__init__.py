"""Language models as an env runner uses them: one file a back end, all alike to the agent loop."""
