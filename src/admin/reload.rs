//! `POST /api/v1/reload`: applies the configuration as its file is now.

use tokio::sync::oneshot;

use super::audit::OperatorRequest;
use super::error::{Problem, ProblemCode};
use super::report::Configuration;
use super::{Admin, Command};
use events::EventAction;

impl Admin {
    /// Returns once the new configuration is in force. It is applied also if the client disconnects.
    ///
    /// # Errors
    /// 422 for a configuration that cannot be applied, 503 while the gateway ends.
    pub(super) async fn reload(&self, operator: OperatorRequest) -> Result<Configuration, Problem> {
        let (answer, answered) = oneshot::channel();
        let ending = || Problem::new(ProblemCode::Unavailable, "the gateway is ending");
        let sent = self.commands.send(Command::Reload(answer)).await;
        sent.map_err(|_| ending())?;
        match answered.await.map_err(|_| ending())? {
            Ok(configuration) => {
                self.audit(operator, EventAction::Reload, None);
                Ok(configuration)
            }
            Err(faults) => Err(Problem::new(ProblemCode::InvalidConfiguration, faults)),
        }
    }
}
