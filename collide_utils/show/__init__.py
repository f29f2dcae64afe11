"""Pictures, charts and widgets; nothing is computed here."""
