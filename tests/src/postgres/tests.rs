use super::*;

#[test]
fn the_log_gives_statements_of_both_protocols_with_all_their_lines() {
    let log = "stray\n\
        @1||LOG:  starting PostgreSQL 15\n\
        @42|psql|LOG:  statement: SELECT 1\n\
        \t  + 2 /* rid=a */\n\
        @43||LOG:  execute __asyncpg_stmt_1__: SELECT $1 /* rid=b */\n\
        @43||DETAIL:  parameters: $1 = 'x: y'\n\
        @44|my app|LOG:  execute <unnamed>/C_1: FETCH 1\n\
        @44|my app|ERROR:  relation \"x\" does not exist at character 15\n\
        @44|my app|STATEMENT:  SELECT * FROM x\n";
    let statement = |text: &str, pid, application: &str| Statement {
        text: text.to_string(),
        pid,
        application: application.to_string(),
    };
    assert_eq!(
        read_log(log, executed),
        [
            statement("SELECT 1\n  + 2 /* rid=a */", 42, "psql"),
            statement("SELECT $1 /* rid=b */", 43, ""),
            statement("FETCH 1", 44, "my app"),
        ]
    );
    assert_eq!(
        read_log(log, |message| message.strip_prefix("STATEMENT:  ")),
        [statement("SELECT * FROM x", 44, "my app")]
    );
}
