//! Statements are planned and run on threads of their own with deep stacks, and no statement is deeper than those bear.
//!
//! Parser, planner and expressions recurse over the syntax tree; a chain such as `a OR b OR c ...` is as deep as it is
//! long. Without a bound one statement would end the node. The bound is on the tokens that can nest, counted before
//! anything recurses. Threads of their own also keep a heavy statement from holding up the doors.

use std::future::Future;

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use products::SqlError;
use tokio::runtime::{Builder, Runtime};

use crate::error;

/// Tokens that can nest, in one statement.
const NESTING_MAX: usize = 2_000;
/// Joins by keyword: planning time grows fast with them.
const JOINS_MAX: usize = 48;
/// Virtual memory; only what a statement touches is used. Measured for a debug build at [`NESTING_MAX`].
const STACK_BYTES: usize = 256 << 20;

/// Refuses a statement that nests, or could nest, more than the stacks bear. Reads tokens only; does not recurse.
pub fn check(sql: &str) -> Result<(), SqlError> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql)
        .tokenize()
        .map_err(|_| SqlError::Invalid { what: "the statement cannot be read: look for an open quote".into() })?;
    let (mut nesting, mut joins) = (0, 0);
    for token in &tokens {
        match token {
            Token::Word(word) => match word.keyword {
                Keyword::JOIN => joins += 1,
                Keyword::NoKeyword => {}
                // Any word of the language can be an operator or open a clause.
                _ => nesting += 1,
            },
            Token::Whitespace(_)
            | Token::Comma
            | Token::Period
            | Token::RParen
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::EOF => {}
            _ => nesting += 1,
        }
    }
    if nesting > NESTING_MAX {
        let what =
            format!("the statement has {nesting} operators, keywords and brackets, more than {NESTING_MAX}: split it");
        return Err(SqlError::Refused { what });
    }
    if joins > JOINS_MAX {
        return Err(SqlError::Refused {
            what: format!("the statement has {joins} joins, more than {JOINS_MAX}: split it"),
        });
    }
    Ok(())
}

/// Runs what recurses over a syntax tree on a deep stack of its own.
pub fn deeply<T: Send>(work: impl FnOnce() -> Result<T, SqlError> + Send) -> Result<T, SqlError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("sql-parse".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, work) {
            Ok(running) => running.join().unwrap_or_else(|_| Err(error::broken("parse"))),
            Err(_) => Err(SqlError::Busy { retry_after_ms: 500 }),
        }
    })
}

/// The threads statements run on.
pub struct SqlThreads(Option<Runtime>);

impl SqlThreads {
    pub fn start(threads: usize) -> Result<SqlThreads, SqlError> {
        Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name("sql")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map(|runtime| SqlThreads(Some(runtime)))
            .map_err(|_| error::broken("threads"))
    }

    /// Runs a statement there. Dropping the returned future stops the statement.
    pub async fn run<T: Send + 'static>(
        &self,
        statement: impl Future<Output = Result<T, SqlError>> + Send + 'static,
    ) -> Result<T, SqlError> {
        let Some(runtime) = &self.0 else { return Err(error::broken("threads")) };
        let mut tasks = tokio::task::JoinSet::new();
        // A set of one: dropping it aborts the task.
        tasks.spawn_on(statement, runtime.handle());
        match tasks.join_next().await {
            Some(Ok(outcome)) => outcome,
            // It panicked; the panic is its own and ends nothing else.
            _ => Err(error::broken("statement")),
        }
    }
}

impl Drop for SqlThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
