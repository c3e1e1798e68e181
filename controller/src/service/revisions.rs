//! From a model's file to the revision that serves: checked before it replaces one that serves already.

use super::{Context, ServiceState};
use crate::{
    change::What,
    check::Verdict,
    model::{Model, ModelError},
    platform::{Revision, Workload},
    status::Problem,
    workload,
};

impl ServiceState {
    /// The model's file was found, or not. Answers whether the newest revision needs a check.
    pub(crate) fn resolved(&mut self, ctx: &mut Context<'_>, model: Result<Model, ModelError>) -> bool {
        self.fetching = None;
        let before = self.problem.as_ref().and_then(|problem| problem.revision.clone());
        let check = self.take_model(ctx, model);
        // A revision that was found broken before is looked at again without ado.
        let again = before.is_some() && self.newest().map(|newest| &newest.revision) == before.as_ref();
        if !again {
            self.examining = check || self.candidate.is_some();
        }
        check
    }

    fn take_model(&mut self, ctx: &mut Context<'_>, model: Result<Model, ModelError>) -> bool {
        let model = match model {
            Ok(model) => model,
            Err(error) => {
                self.candidate = None;
                self.checked = false;
                self.set_problem(ctx, Problem::model_missing(&error));
                return false;
            }
        };
        let workload = workload::workload(&self.service, &model);
        let (applied, revision) = (self.applied.as_ref(), workload.revision.clone());
        if applied.is_some_and(|applied| applied.revision == revision) {
            let changed = applied != Some(&workload);
            // Going back to what serves: its check was good, or it is made again.
            self.checked |= self.candidate.take().is_some() && self.serving();
            if changed {
                self.apply(ctx, workload);
            }
            self.keep_problem_of(ctx, &revision);
            self.reconcile(ctx);
            return !self.checked;
        }
        if self
            .candidate
            .as_ref()
            .is_some_and(|candidate| candidate.revision == revision)
        {
            return false;
        }
        self.keep_problem_of(ctx, &revision);
        self.checked = false;
        if self.serving() || self.former_can_serve(&workload) {
            self.candidate = Some(workload);
        } else {
            self.adopt(ctx, workload);
        }
        true
    }

    /// Whether the applied revision can still be started: its file is another one than the new revision's.
    fn former_can_serve(&self, new: &Workload) -> bool {
        let applied = self.applied.as_ref();
        applied.is_some_and(|applied| applied.runtime.path != new.runtime.path && applied.runtime.path.is_file())
    }

    /// A problem of another revision, or of a file that is there again, is none any more.
    fn keep_problem_of(&mut self, ctx: &Context<'_>, revision: &Revision) {
        if self
            .problem
            .as_ref()
            .is_some_and(|problem| problem.revision.as_ref() != Some(revision))
        {
            self.clear_problem(ctx);
        }
    }

    /// The problem that keeps the applied revision from being started: one of its own, or one of the file that it would
    /// load too.
    pub(super) fn blocking_problem(&self) -> Option<&Problem> {
        let path = self.applied.as_ref().map(|applied| &applied.runtime.path);
        self.problem
            .as_ref()
            .filter(|problem| path.is_none_or(|path| path.starts_with(&problem.path)))
    }

    /// A replica of this revision is ready: whatever was said against it doesn't hold.
    pub(super) fn proven(&mut self, ctx: &Context<'_>, revision: &Revision) {
        if self
            .applied
            .as_ref()
            .is_none_or(|applied| applied.revision != *revision)
        {
            return;
        }
        self.backoff.reset();
        if self
            .problem
            .as_ref()
            .is_some_and(|problem| problem.revision.as_ref() == Some(revision))
        {
            self.clear_problem(ctx);
        }
        self.checked |= self.candidate.is_none() && self.problem.is_none();
    }

    /// The newest revision, which a check is about.
    pub(crate) fn newest(&self) -> Option<&Workload> {
        self.candidate.as_ref().or(self.applied.as_ref())
    }

    /// A check of a revision's model ended.
    pub(crate) fn verdict(&mut self, ctx: &mut Context<'_>, revision: &Revision, verdict: Verdict) {
        if self.newest().is_none_or(|newest| newest.revision != *revision) {
            return;
        }
        self.checked = verdict.is_ok();
        self.examining = false;
        match verdict {
            Ok(took) => {
                ctx.tell(&self.key, What::ModelOk(took));
                self.clear_problem(ctx);
                if let Some(candidate) = self.candidate.take() {
                    self.adopt(ctx, candidate);
                }
            }
            Err(error) => {
                if self.candidate.is_none() && self.ready_replicas() > 0 {
                    // It serves, whatever the check met (its limits, most likely).
                    self.checked = true;
                    return;
                }
                let Some(failed) = self.candidate.take().or_else(|| self.applied.clone()) else {
                    return;
                };
                let stays = self
                    .applied
                    .as_ref()
                    .filter(|applied| applied.revision != failed.revision);
                let problem = Problem::model_invalid(&error, &failed, stays.map(|stays| &stays.revision));
                self.set_problem(ctx, problem);
            }
        }
        self.reconcile(ctx);
    }

    /// From now on this revision is the wanted one; replicas of a former one drain as its own become ready.
    fn adopt(&mut self, ctx: &mut Context<'_>, workload: Workload) {
        if self.applied.is_some() {
            ctx.tell(&self.key, What::Changed(Some(workload.revision.clone())));
        }
        self.rolling = !self.replicas.is_empty();
        self.backoff.reset();
        self.apply(ctx, workload);
        self.reconcile(ctx);
    }

    fn apply(&mut self, ctx: &Context<'_>, workload: Workload) {
        ctx.platform.apply(workload.clone());
        self.applied = Some(workload);
    }

    /// The newest revision can't serve. Requests that wait are told, unless a former revision serves them.
    fn set_problem(&mut self, ctx: &Context<'_>, problem: Problem) {
        if self.problem.as_ref() != Some(&problem) {
            ctx.tell(&self.key, What::ModelBroken(problem.message.clone()));
        }
        let error = problem.wake_error();
        self.problem = Some(problem);
        if !self.serving() && self.blocking_problem().is_some() {
            ctx.traffic.wake_failed(&self.backend, error);
        }
    }

    fn clear_problem(&mut self, ctx: &Context<'_>) {
        if self.problem.take().is_some() {
            ctx.traffic.wake_recovered(&self.backend);
        }
    }

    /// Says so when the last replica of a former revision is gone.
    pub(super) fn tell_rolled_over(&mut self, ctx: &Context<'_>) {
        let Some(applied) = &self.applied else { return };
        if self.rolling
            && self
                .replicas
                .values()
                .all(|state| state.replica.revision == applied.revision)
        {
            self.rolling = false;
            ctx.tell(&self.key, What::RolledOver(applied.revision.clone()));
        }
    }
}
