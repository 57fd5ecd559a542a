"""What the scripts share: films, features, episodes, configuration, runs and scores. No sequence model lives here."""
