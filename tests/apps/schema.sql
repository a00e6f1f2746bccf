CREATE TABLE games (
    id integer PRIMARY KEY,
    name text NOT NULL,
    genre text NOT NULL,
    rating numeric(3, 1) NOT NULL
);
CREATE TABLE players (
    id integer PRIMARY KEY,
    name text NOT NULL,
    game_id integer NOT NULL REFERENCES games,
    score integer NOT NULL
);
CREATE INDEX players_game ON players (game_id);
CREATE TABLE plays (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    game_id integer NOT NULL REFERENCES games,
    note text NOT NULL,
    played_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO games
SELECT n, 'Game ' || n, (ARRAY['puzzle', 'racing', 'strategy', 'arcade'])[n % 4 + 1], (n % 50) / 10.0 + 5
FROM generate_series(1, 500) AS n;
INSERT INTO players
SELECT n, 'Player ' || n, n % 500 + 1, (n * 7919) % 1000
FROM generate_series(1, 5000) AS n;
ANALYZE;
