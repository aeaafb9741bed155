"""Who may call, what they may see, and how much they may spend. Knows no wire: transport asks it, and ranking."""
