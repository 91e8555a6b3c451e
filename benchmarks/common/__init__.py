"""What several questions share: models, texts, results, clocks."""
