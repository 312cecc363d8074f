"""Pure measures on arrays; each takes optional sample weights, so that it can be bootstrapped."""
