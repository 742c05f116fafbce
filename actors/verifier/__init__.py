"""The trained verifier as a Ray actor (`server`) and as an env runner sees it (`client`)."""
