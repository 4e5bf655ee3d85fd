"""Two models over the same prior samples: what broke, where, and what rehearsing would be worth."""
