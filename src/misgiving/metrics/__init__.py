"""Pure measures on arrays; those that are bootstrapped take optional sample weights."""
