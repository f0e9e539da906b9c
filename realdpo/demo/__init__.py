"""The demo: its footage, the tiny model it trains, and the run from footage to evidence."""
