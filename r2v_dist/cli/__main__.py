"""`python -m r2v_dist.cli` is `r2v`."""

from r2v_dist.cli.main import main

main()
