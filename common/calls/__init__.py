"""The call that is being answered."""
