"""How much do supertokens (tokens of several words) save, and what do they cost?"""
