"""Generated tables and pages; each module prints one, and ``reelrl report NAME`` runs it."""
