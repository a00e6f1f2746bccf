//! SQL as text.

use super::super::sql::{analyse, sanitize, split, summary};

#[test]
fn literals_are_replaced_and_nothing_else() {
    let cases = [
        ("SELECT * FROM t WHERE a = 'it''s' AND b = 42", "SELECT * FROM t WHERE a = ? AND b = ?"),
        (r"SELECT E'a\'b', 'c\', x", "SELECT ?, ?, x"),
        (r#"SELECT U&'d\0061t', U&"d\0061t", B'01', X'1F', N'x'"#, r#"SELECT ?, U&"d\0061t", ?, ?, ?"#),
        ("SELECT $$it's$$, $tag$a $$ b$tag$, $1, $23", "SELECT ?, ?, $1, $23"),
        ("SELECT 1, 1.5, .5, 1e10, 1.5E-3, 0x1F, 1_000, t1, a.b2", "SELECT ?, ?, ?, ?, ?, ?, ?, t1, a.b2"),
        ("SELECT 'x'::jsonb -> 'k', -5", "SELECT ?::jsonb -> ?, -?"),
        ("SELECT \"it's\".\"a \"\"b\"\" 1\"", "SELECT \"it's\".\"a \"\"b\"\" 1\""),
        ("  SELECT\n\t1 /* a /* nested */ 'x' */ + 2 -- end 'y'\n ;", "SELECT ? + ? ;"),
        ("-- only a comment", ""),
        ("SELECT * FROM t WHERE a IN (1, 2,3) AND b IN ('x')", "SELECT * FROM t WHERE a IN (?) AND b IN (?)"),
        ("a in ( -1 , +2 )", "a in (?)"),
        (
            "a IN ($1, $2) OR a IN (1, $1) OR a IN (SELECT 1)",
            "a IN ($1, $2) OR a IN (?, $1) OR a IN (SELECT ?)",
        ),
        ("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (?, ?)"),
        ("SELECT 'secret that does not end", "SELECT ?"),
        ("SELECT $q$secret that does not end", "SELECT ?"),
        ("SELECT E'secret\\", "SELECT ?"),
        ("SELECT naïve, 'é' FROM größe", "SELECT naïve, ? FROM größe"),
        ("SELECT a$1 FROM t", "SELECT a$1 FROM t"),
        ("", ""),
    ];
    for (sql, expected) in cases {
        assert_eq!(sanitize(sql), expected, "{sql}");
    }
}

#[test]
fn statements_are_separated_at_the_semicolons_between_them() {
    let cases: [(&str, &[&str]); 7] = [
        ("SELECT 1; SELECT ';' ;", &["SELECT 1", "SELECT ';'"]),
        (";; ; -- nothing\n", &[]),
        ("DO $$ BEGIN x; END $$; SELECT 1", &["DO $$ BEGIN x; END $$", "SELECT 1"]),
        ("CREATE RULE r AS ON INSERT TO t DO (a; b); c", &["CREATE RULE r AS ON INSERT TO t DO (a; b)", "c"]),
        (
            "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END; SELECT 3",
            &["CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END", "SELECT 3"],
        ),
        ("BEGIN; SELECT 1; END", &["BEGIN", "SELECT 1", "END"]),
        ("/* a; */ SELECT 1", &["/* a; */ SELECT 1"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(split(sql), expected, "{sql}");
    }
}

#[test]
fn a_summary_has_operations_and_targets_in_their_order() {
    let cases = [
        ("SELECT * FROM games WHERE id = $1", "SELECT games"),
        ("select id from Games g, s.scores AS x where a in (1, 2)", "select Games s.scores"),
        ("INSERT INTO shipping_details SELECT * FROM orders", "INSERT shipping_details SELECT orders"),
        ("INSERT INTO t (a, b) VALUES ($1, $2) ON CONFLICT (a) DO UPDATE SET b = 1 RETURNING a", "INSERT t"),
        ("SELECT * FROM \"song list\" JOIN artists ON a = b, c", "SELECT \"song list\" artists c"),
        ("SELECT * FROM (SELECT a FROM t) x", "SELECT SELECT t"),
        ("SELECT EXTRACT(epoch FROM ts), trim(both from x) FROM t WHERE a IS DISTINCT FROM b", "SELECT t"),
        ("SELECT * FROM generate_series(1, 10) JOIN LATERAL f(1) ON true", "SELECT"),
        ("SELECT 1", "SELECT"),
        (
            "WITH r AS (SELECT a FROM b), s (x) AS (DELETE FROM d RETURNING 1) SELECT * FROM r",
            "SELECT b DELETE d SELECT r",
        ),
        ("WITH x AS (SELECT 1) UPDATE t SET a = 1 FROM u WHERE 1 = 1", "SELECT UPDATE t u"),
        ("UPDATE ONLY t SET a = (SELECT max(b) FROM u)", "UPDATE t SELECT u"),
        ("DELETE FROM a USING b WHERE a.x = b.x", "DELETE a b"),
        ("SELECT a FROM t FOR UPDATE OF t", "SELECT t"),
        ("SELECT a FROM t UNION ALL SELECT b FROM u ORDER BY 1, 2", "SELECT t SELECT u"),
        (
            "MERGE INTO t USING s ON a = b WHEN MATCHED THEN UPDATE SET x = 1 WHEN NOT MATCHED THEN INSERT VALUES (1)",
            "MERGE t s",
        ),
        ("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)", "CREATE INDEX i"),
        ("CREATE TABLE IF NOT EXISTS t (a int REFERENCES u (b) ON DELETE CASCADE)", "CREATE TABLE t"),
        ("CREATE TABLE t AS SELECT * FROM u", "CREATE TABLE t SELECT u"),
        ("DROP TABLE IF EXISTS t", "DROP TABLE t"),
        ("CREATE TRIGGER g AFTER INSERT OR UPDATE ON t EXECUTE FUNCTION f()", "CREATE TRIGGER g"),
        ("TRUNCATE TABLE a, b", "TRUNCATE a b"),
        ("COPY games (id) FROM STDIN", "COPY games"),
        ("COPY (SELECT id FROM games) TO STDOUT", "COPY SELECT games"),
        ("CALL refresh(1)", "CALL refresh"),
        ("EXPLAIN (ANALYZE) DELETE FROM t", "EXPLAIN DELETE t"),
        ("DECLARE \"srv\" CURSOR FOR SELECT id FROM games", "DECLARE SELECT games"),
        ("FETCH FORWARD 5 FROM \"srv\"", "FETCH"),
        ("GRANT SELECT ON t TO u", "GRANT"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN"),
        ("start transaction", "start transaction"),
        ("LISTEN \"news\"", "LISTEN \"news\""),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", "REFRESH MATERIALIZED VIEW v"),
        ("/* hint */ SELECT a FROM t -- x", "SELECT t"),
        ("SELECT 1 FROM a; DELETE FROM b", "SELECT a DELETE b"),
        (
            "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;",
            "SELECT CLOSE UNLISTEN RESET",
        ),
        ("zzz; SELECT 1; zzz; BEGIN", "SELECT BEGIN"),
        ("CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; SELECT 2; END; CALL p()", "CREATE FUNCTION f CALL p"),
        ("SELECT a INTO TEMP TABLE n FROM t", "SELECT n t"),
        ("(SELECT a FROM t) UNION (SELECT b FROM u)", "SELECT t SELECT u"),
    ];
    for (sql, expected) in cases {
        assert_eq!(summary(sql).as_deref(), Some(expected), "{sql}");
    }
    for sql in ["", ";", "SELEC 1", "-- x", "'a'"] {
        assert_eq!(summary(sql), None, "{sql}");
    }
}

#[test]
fn a_summary_is_cut_between_words() {
    let sql = format!("SELECT * FROM {}", vec!["a_table_name"; 40].join(", "));
    let found = summary(&sql).unwrap();
    assert!(found.len() <= 255 && found.ends_with(" a_table_name"), "{found}");
}

#[test]
fn a_summary_of_several_statements_is_cut_between_them() {
    let one = "UPDATE a_table SET a = 1 FROM other";
    let found = summary(&[one; 40].join(";")).unwrap();
    assert_eq!(found, ["UPDATE a_table other"; 12].join(" "));
    // Nothing that would fit comes behind what did not.
    let long = format!("DELETE FROM {}", "t".repeat(245));
    assert_eq!(summary(&format!("BEGIN; {long}; COMMIT")).as_deref(), Some("BEGIN"));
}

#[test]
fn of_several_statements_only_what_is_common_is_told() {
    let told = |sql: &str| {
        let found = analyse(sql);
        (found.operation, found.procedure)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(told("UPDATE t SET a = 1; update t SET a = 2;"), (some("UPDATE"), None));
    assert_eq!(told("UPDATE t SET a = 1; UPDATE u SET a = 2"), (some("UPDATE"), None));
    assert_eq!(told("SELECT a FROM t; DELETE FROM t"), (None, None));
    assert_eq!(told("SELECT a FROM t; BEGIN; SELECT a FROM t"), (None, None));
    assert_eq!(told("zzz; SELECT a FROM t"), (None, None));
    assert_eq!(told("CALL p(1); CALL p(2)"), (some("CALL"), some("p")));
    assert_eq!(analyse("CALL s.p(1)").procedure.as_deref(), Some("s.p"));
    assert!(!analyse("SELECT 1;").several && analyse("zzz; zzz").several);
}
