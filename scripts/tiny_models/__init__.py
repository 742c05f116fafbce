"""How the bundled tiny models were made."""
