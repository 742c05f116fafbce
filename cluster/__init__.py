"""Where a run happens: the Ray session, resources and placement, submitted jobs and manifests."""
