//! `POST /api/v1/upgrade`: hands over to a new process of the program.

use tokio::sync::oneshot;

use super::audit::OperatorRequest;
use super::error::{Problem, ProblemCode};
use super::report::Upgraded;
use super::{Admin, Command};
use events::EventAction;

impl Admin {
    /// Returns once the new process accepts connections. It happens also if the client disconnects.
    ///
    /// # Errors
    /// 409 if the new process cannot take over: this one goes on; 503 while the gateway ends.
    pub(super) async fn upgrade(&self, operator: OperatorRequest) -> Result<Upgraded, Problem> {
        let (answer, answered) = oneshot::channel();
        let ending = || Problem::new(ProblemCode::Unavailable, "the gateway is ending");
        let sent = self.commands.send(Command::Upgrade(answer)).await;
        sent.map_err(|_| ending())?;
        match answered.await.map_err(|_| ending())? {
            Ok(process) => {
                self.audit(operator, EventAction::Upgrade, None);
                Ok(Upgraded { process })
            }
            Err(reason) => Err(Problem::new(ProblemCode::NotUpgraded, reason)),
        }
    }
}
