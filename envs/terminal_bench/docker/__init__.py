"""The back end `docker`: terminals in containers of any Docker-compatible engine."""
