"""API keys: what they may do, how they are looked up and when they were last used."""
