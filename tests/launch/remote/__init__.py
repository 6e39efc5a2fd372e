"""Jobs on other machines."""
