"""What a deployed agent needs to decide who acts. numpy only."""
