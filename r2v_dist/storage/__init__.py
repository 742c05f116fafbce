"""What is published is whole, and nothing that is published is overwritten."""
